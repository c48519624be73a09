"""Indexes over a job's embeddings, and what is found in them.

index       build, save, load and search; measured recall; refuses another model's queries
duplicates  near-duplicate images of a set
milvus      export to a Milvus collection
"""

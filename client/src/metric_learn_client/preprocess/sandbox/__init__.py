"""Decoding in processes of its own, which can do nothing else. For the server's stages, and in the client where asked.

decoder_pool      the pool: which image goes to which decoder, and what becomes of it
decoder           one decoder as the pool sees it: its slot, its socket, its images, its limits in time
nursery           the process that forks decoders, as the pool sees it
crashed_files     files that ended a decoder, and are not tried again for a while
shared_pool       the pool of a client's process
decoder_process   the other side: the nursery that forks decoders, and their life
confinement       what a decoder gives up before its first picture
"""

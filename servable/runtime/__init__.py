"""What runs models: MindSpore Lite and CANN on this host, and the environment in which they are found.

Nothing is imported here: the images run `lite_runtime` before anything else of the server is copied.
"""

"""The calls themselves: what a request asks for, what is done for it, and the reply that it gets."""

"""Who may call, and in secret from whom: certificates, tokens, and the files that hold them."""

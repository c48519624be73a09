"""What commands have in common: an endpoint's options, standard streams, files, signals, progress."""

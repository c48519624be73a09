"""What the server and its host say to each other: orders, the service manager, limits of the process."""

"""Model directories and run directories, and the pictures in them."""

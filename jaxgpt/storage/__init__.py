"""Model directories, run directories, and the plots written to them."""

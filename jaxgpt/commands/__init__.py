"""The command line: how every command is called and how it ends."""

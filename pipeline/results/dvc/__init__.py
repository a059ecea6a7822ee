"""DVC: its lock file and its remotes."""

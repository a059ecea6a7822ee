"""What grows with the number of training jobs: the time of a plan, the time of DVC's commands, and the number of files and rows."""

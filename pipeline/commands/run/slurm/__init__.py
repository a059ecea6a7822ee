"""Runs on Slurm: what the site decides, what a job asks for, and jobs that an earlier run left in the queue."""

"""Runs on Slurm: what the site decides, what a job asks for, trainings on several nodes, and jobs that an earlier run left in the queue."""

"""Commands that share results: in dvc.lock, on DVC remotes, as a folder for the Hugging Face Hub."""

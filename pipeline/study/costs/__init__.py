"""What a study of real models needs: download, GPU memory and hours, estimated from the shapes of its models."""

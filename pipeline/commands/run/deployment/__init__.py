"""Where jobs run other than in this environment: conda and Apptainer, storage without a shared file system, Kubernetes."""

"""The combine stage: trained adapters of one base as one adapter."""

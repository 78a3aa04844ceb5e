"""The network pi0 of transformers as a policy."""

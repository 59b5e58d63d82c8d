"""The LLaMA architecture (paper section 2.2), written once."""

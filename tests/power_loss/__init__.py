"""Opens states in which a power cut could leave the disk of a run, and looks for what is missing."""

"""What people look at: progress while something runs, and tables of what came out."""

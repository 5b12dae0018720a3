"""Pages and plots of what analysis and search measure."""

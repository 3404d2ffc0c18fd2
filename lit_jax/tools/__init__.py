"""Programs over runs and machines: export, doctor, plan, report, demo, grid, quickstart."""

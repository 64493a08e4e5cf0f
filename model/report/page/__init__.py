"""The page `report.html`: everything below a folder in one file that needs no network."""

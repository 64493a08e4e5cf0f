"""Results of many runs, collected from their folders: tables, CSV, DataFrame. Imports no torch."""

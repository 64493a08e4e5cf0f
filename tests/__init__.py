import os

os.environ.pop("RETORT_HOME", None)  # tests read files of the repository, which this would move elsewhere

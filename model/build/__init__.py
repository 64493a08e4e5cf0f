"""From params.json to objects: the one place that knows both the file's form and the parts it names.

Importing this package registers every network, loss, data set, optimizer and schedule.
"""

import model.data
import model.losses
import model.nets
import model.training  # noqa: F401

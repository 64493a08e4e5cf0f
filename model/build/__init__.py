"""From params.json to objects: the one package that knows both the file's form and the parts it names.

Importing this package registers every network, loss, data set, optimizer and schedule.
"""

from .. import data, losses, nets, training

"""From the owners' archives to prepared data: download, archives, collections, manifest, verify."""

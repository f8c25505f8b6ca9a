#!/usr/bin/env python3
"""What OpenTAXII has no command for: a public API root with a public collection, and rows written straight into its tables.

    OPENTAXII_CONFIG=… python opentaxii_setup.py create           # prints the path of the collection
    OPENTAXII_CONFIG=… python opentaxii_setup.py fill FILE COLLECTION SKIP

`fill` writes the objects of an envelope from number SKIP on, as its own POST would, without the checks that make POST slow. It runs
in the virtual environment that OpenTAXII is in.
"""

import datetime
import json
import sys
import uuid

from opentaxii.config import ServerConfig
from opentaxii.middleware import create_app
from opentaxii.persistence.sqldb.taxii2models import STIXObject
from opentaxii.server import TAXIIServer
from opentaxii.taxii2.utils import DATETIMEFORMAT


def create(api):
    root = api.add_api_root(title="perf", default=True, is_public=True)
    made = api.add_collection(api_root_id=root.id, title="All", is_public=True, is_public_write=True)
    print(f"/taxii2/{root.id}/collections/{made.id}/")


def moment(text):
    return datetime.datetime.strptime(text, DATETIMEFORMAT).replace(tzinfo=datetime.timezone.utc)


def fill(api, path, collection, skip):
    with open(path) as file:
        objects = json.load(file)["objects"][skip:]
    collection = uuid.UUID(collection)
    now = datetime.datetime.now(datetime.timezone.utc)
    with api.db.engine.begin() as connection:
        for start in range(0, len(objects), 10_000):
            rows = [
                {
                    "pk": uuid.uuid4(),
                    "id": entry["id"],
                    "collection_id": collection,
                    "type": entry["type"],
                    "spec_version": entry["spec_version"],
                    "date_added": now + datetime.timedelta(microseconds=start + number),
                    "version": moment(entry["modified"]),
                    "serialized_data": {k: v for k, v in entry.items() if k not in ("id", "type", "spec_version")},
                }
                for number, entry in enumerate(objects[start : start + 10_000])
            ]
            connection.execute(STIXObject.__table__.insert(), rows)


def main():
    app = create_app(TAXIIServer(ServerConfig()))
    with app.app_context():
        api = app.taxii_server.servers.taxii2.persistence.api
        if sys.argv[1] == "create":
            create(api)
        else:
            fill(api, sys.argv[2], sys.argv[3], int(sys.argv[4]))


if __name__ == "__main__":
    main()

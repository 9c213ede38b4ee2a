"""Print what an artefact is, what it was made from and with, and what it holds; with --verify, check every value."""

import _job

from robust_tangents import storage


def main(options) -> None:
    with storage.read(options.file) as artefact:
        for name, value in artefact.header.items():
            print(f"{name}:", end=" " if not isinstance(value, dict) else "\n")
            if isinstance(value, dict):
                print("".join(f"  {key}: {_job.json.dumps(entry)}\n" for key, entry in value.items()), end="")
            else:
                print(value)
        print(f"checksum: {artefact.checksum}\ncontents:")
        for name, (shape, dtype) in artefact.contents().items():
            if options.verify:
                artefact[name]
            print(f"  {name}: {dtype} {'x'.join(map(str, shape)) or 'scalar'}")
    if options.verify:
        print("all values agree with their checksums")


if __name__ == "__main__":
    parser = _job.parser(__doc__, spec=False)
    parser.add_argument("file", help="an HDF5 file of this project")
    parser.add_argument("--verify", action="store_true", help="read every value and compare with its checksum")
    _job.run(main, parser)

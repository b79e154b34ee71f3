"""One audit in a fresh process, the same lines for us and for the peer.

python run_audit.py MODULE DATA OUT METHOD WORKERS
"""

import importlib
import sys


def main() -> None:
    module, data, out, method, workers = sys.argv[1:6]
    audit_dataset = importlib.import_module(module).audit_dataset
    audit_dataset(data, output_dir=out, dedup_method=method, workers=int(workers))


if __name__ == "__main__":
    main()

#!/bin/bash
# Makes the main data of one PREPARE TRANSACTION record of a PostgreSQL major: NN.bin in this directory.
#
#   make.sh BINDIR    a directory with initdb, pg_ctl and postgres; psql from the path. Run as root.
#
# The transaction has a subtransaction that was released and holds locks on two tables, and another; it
# creates a table and drops one. 13, 15, 16 and 18 are here: 14 is laid out as 13, and 17 as 16.
set -euo pipefail
bindir=$1
here=$(cd "$(dirname "$0")" && pwd)
major=$("$bindir/postgres" --version | sed -E 's/[^0-9]*([0-9]+).*/\1/')
data=$(mktemp -d)
chown postgres "$data"
as_postgres() { setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }
sql() { psql -h "$data" -U postgres -qAt "$@"; }
as_postgres "$bindir/initdb" -D "$data" -A trust -U postgres >/dev/null
as_postgres "$bindir/pg_ctl" -D "$data" -w -l "$data/log" start -o \
    "-c max_prepared_transactions=5 -c listen_addresses='' -c unix_socket_directories=$data" >/dev/null
trap 'as_postgres "$bindir/pg_ctl" -D "$data" -w -m immediate stop >/dev/null; rm -rf "$data"' EXIT
sql -c "create table t (i int); create table u (i int); create table w (i int)"
sql -c "select pg_switch_wal()" >/dev/null
sql <<SQL
begin;
insert into t values (1);
savepoint a; insert into t values (2);
savepoint b; create table x (i int); drop table w; release b;
lock table u in access exclusive mode;
prepare transaction 'a gid';
SQL
# The record begins with TwoPhaseFileHeader's magic and length, which counts a checksum that only files have.
python3 - "$data/pg_wal" "$here/$major.bin" <<'PYTHON'
import pathlib, struct, sys
for segment in sorted(pathlib.Path(sys.argv[1]).glob("0" * 8 + "*")):
    wal = segment.read_bytes()
    at = wal.find(struct.pack("<I", 0x57F94534))
    if at < 0:
        continue
    length, record = struct.unpack_from("<I", wal, at + 4)[0] - 4, b""
    while len(record) < length:
        at += 24 if at % 8192 == 0 else 0
        piece = min(length - len(record), 8192 - at % 8192)
        record, at = record + wal[at : at + piece], at + piece
    pathlib.Path(sys.argv[2]).write_bytes(record)
PYTHON

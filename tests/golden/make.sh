#!/bin/sh
# Makes the golden WAL of this directory with a real PostgreSQL 15: ./make.sh
#
# 1 MB segments, so that records cross segments early. What it keeps:
#   *.gz         a run of segments: full-page images, records that cross pages and a segment, a
#                segment switch; the last one cut off after its end
#   records.txt  what pg_waldump says of them: start, start of the one before, length, xid
# As root it runs the server as user postgres. It leaves nothing else behind.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
bin=$(pg_config --bindir)
dir=$(mktemp -d)
as=
if [ "$(id -u)" = 0 ]; then
    as="runuser -u postgres --"
    chown postgres "$dir"
fi
cd "$dir"
trap '$as "$bin/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null 2>&1 || true; rm -rf "$dir"' EXIT

$as "$bin/initdb" -D data --wal-segsize=1 --no-sync -A trust -U postgres >/dev/null
$as sh -c 'cat >> data/postgresql.conf' <<CONF
listen_addresses = ''
unix_socket_directories = '$dir'
autovacuum = off
wal_keep_size = 64MB
max_wal_size = 64MB
checkpoint_timeout = 1d
fsync = off
CONF
$as "$bin/pg_ctl" -D data -l log -w start >/dev/null
sql() { $as "$bin/psql" -h "$dir" -U postgres -qAtX -v ON_ERROR_STOP=1 -c "$1"; }

sql 'select pg_switch_wal()' >/dev/null
sql 'checkpoint'
first=$(sql 'select pg_walfile_name(pg_current_wal_lsn())')
# A record that crosses pages, full-page images (the first change after a checkpoint), small ones.
sql 'create table t (id int primary key, filler text)'
sql "insert into t select i, repeat('x', i % 200) from generate_series(1, 300) i"
sql 'checkpoint'
sql 'update t set id = -id where id % 50 = 0'
sql "select pg_logical_emit_message(false, 'golden', repeat('0123456789abcdef', 3000))" >/dev/null
sql 'select pg_switch_wal()' >/dev/null
sql "select pg_logical_emit_message(true, 'golden', 'after the switch')" >/dev/null
# A record that crosses into the next segment.
sql "select pg_logical_emit_message(false, 'golden', repeat(' ', 1100000))" >/dev/null
sql 'delete from t where id > 290'
end=$(sql 'select pg_current_wal_lsn()')
last=$(sql 'select pg_walfile_name(pg_current_wal_lsn())')
$as "$bin/pg_ctl" -D data -m immediate stop >/dev/null

rm -f "$here"/*.gz "$here"/records.txt
for path in data/pg_wal/0*; do
    name=$(basename "$path")
    [ "${#name}" = 24 ] || continue
    if [ "$name" \< "$first" ] || [ "$name" \> "$last" ]; then continue; fi
    len=1048576
    # Of the last, one page after the end: what a recycled segment had there before.
    if [ "$name" = "$last" ]; then len=$(((0x${end#*/} % 1048576 / 8192 + 2) * 8192)); fi
    head -c "$len" "$path" | gzip -9n >"$here/$name.gz"
done
"$bin/pg_waldump" -p data/pg_wal "$first" "$last" 2>/dev/null >full.txt || true
sed -En 's|^rmgr: +[^ ]+ +len [^:]*: *[0-9]+/ *([0-9]+), tx: *([0-9]+), lsn: ([0-9A-F/]+), prev ([0-9A-F/]+), .*|\3 \4 \1 \2|p' \
    full.txt >"$here/records.txt"
[ "$(wc -l <full.txt)" = "$(wc -l <"$here/records.txt")" ]

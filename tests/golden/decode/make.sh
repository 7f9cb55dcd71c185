#!/bin/sh
# Makes the golden logical decoding of this directory with a real PostgreSQL 15: ./make.sh
#
# 1 MB segments, wal_level = logical. What it keeps:
#   *.gz          a run of segments with messages, transactional and not, among other records
#   slot.txt      restart_lsn, confirmed_flush_lsn and database of the slot
#   changes.txt   what pgoutput makes of them: position, xid, bytes
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
wal_level = logical
max_prepared_transactions = 4
wal_keep_size = 64MB
max_wal_size = 64MB
checkpoint_timeout = 1d
fsync = off
CONF
$as "$bin/pg_ctl" -D data -l log -w start >/dev/null
sql() { $as "$bin/psql" -h "$dir" -U postgres -qAtX -v ON_ERROR_STOP=1 "$@"; }

sql -c 'create table t (id int primary key, filler text); create publication p' >/dev/null
sql -c 'select pg_switch_wal()' >/dev/null
sql -c "select pg_create_logical_replication_slot('s', 'pgoutput')" >/dev/null
slot=$(sql -F ' ' -c "select restart_lsn, confirmed_flush_lsn, datoid from pg_replication_slots")
first=$(sql -c "select pg_walfile_name(restart_lsn) from pg_replication_slots")
sql >/dev/null <<'SQL'
select pg_logical_emit_message(false, 'plain', 'one');
select pg_logical_emit_message(true, 'alone', '\x00ff01'::bytea);
insert into t select i, repeat('x', i) from generate_series(1, 300) i;
begin;
select pg_logical_emit_message(true, 'first', 'a');
update t set id = -id where id % 7 = 0;
select pg_logical_emit_message(false, 'inside', 'not of the transaction');
select pg_logical_emit_message(true, 'first', repeat('0123456789', 3000));
commit;
begin;
select pg_logical_emit_message(true, 'gone', 'rolled back');
rollback;
begin;
select pg_logical_emit_message(true, 'top', '1');
savepoint a;
select pg_logical_emit_message(true, 'sub', '2');
savepoint b;
select pg_logical_emit_message(true, 'gone', '3');
rollback to b;
select pg_logical_emit_message(true, 'sub', '4');
release a;
select pg_logical_emit_message(true, 'top', '');
commit;
begin;
select pg_logical_emit_message(true, 'prepared', 'a');
prepare transaction 'a';
begin;
select pg_logical_emit_message(true, 'prepared', 'b');
prepare transaction 'b';
begin;
savepoint s;
select pg_logical_emit_message(true, 'between', 'only in a subtransaction');
commit;
checkpoint;
select pg_switch_wal();
rollback prepared 'b';
commit prepared 'a';
begin;
drop table t;
select pg_logical_emit_message(true, '', 'with invalidations and dropped files');
commit;
\c template1
select pg_logical_emit_message(false, 'elsewhere', 'another database');
select pg_logical_emit_message(true, 'elsewhere', 'another database');
\c postgres
select pg_logical_emit_message(false, 'long', repeat(' ', 1100000));
select pg_logical_emit_message(true, 'last', 'the end');
SQL
peek() {
    sql -F ' ' -c "select lsn, xid, encode(data, 'hex') from pg_logical_slot_peek_binary_changes(
        's', null, null, 'proto_version', '$1', 'publication_names', 'p', 'messages', 'true')"
}
changes=$(peek 1)
# Later versions of the protocol say the same of what is not streamed.
[ "$(peek 2)" = "$changes" ]
[ "$(peek 3)" = "$changes" ]
end=$(sql -c 'select pg_current_wal_lsn()')
last=$(sql -c 'select pg_walfile_name(pg_current_wal_lsn())')
$as "$bin/pg_ctl" -D data -m immediate stop >/dev/null

rm -f "$here"/*.gz
echo "$slot" >"$here/slot.txt"
# A long message as its beginning and its length: the file need not say it all.
echo "$changes" | awk '{ print $1, $2, length($3) / 2, substr($3, 1, 400) }' >"$here/changes.txt"
for path in data/pg_wal/0*; do
    name=$(basename "$path")
    [ "${#name}" = 24 ] || continue
    if [ "$name" \< "$first" ] || [ "$name" \> "$last" ]; then continue; fi
    len=1048576
    # Of the last, one page after the end: what a recycled segment had there before.
    if [ "$name" = "$last" ]; then len=$(((0x${end#*/} % 1048576 / 8192 + 2) * 8192)); fi
    head -c "$len" "$path" | gzip -9n >"$here/$name.gz"
done

#!/usr/bin/env bash
# Makes secrets.tsv with a real PostgreSQL: role, password in hexadecimal, secret.
#
#   ship/proto/src/password/secrets.sh BINDIR >ship/proto/src/password/secrets.tsv
#
# The server listens nowhere but in a directory of its own, which goes away again.
set -euo pipefail
bindir=$1
dir=$(mktemp -d)
trap '"$bindir/pg_ctl" -D "$dir/data" -m immediate stop >/dev/null; rm -rf "$dir"' EXIT
"$bindir/initdb" -D "$dir/data" -U postgres -A trust -E UTF8 --locale=C >/dev/null
"$bindir/pg_ctl" -D "$dir/data" -o "-c listen_addresses= -k $dir -c fsync=off" -l "$dir/log" -w start >/dev/null

passwords=(pencil 'with space' "quote'" '$4096:' 'md5' 'SCRAM-SHA-256$' $'tab\there' $'\x01control' '~!@#%^&*()'
    # Letters that can be written in two ways, ligatures, wide and narrow forms, superscripts.
    $'\u00e9' $'e\u0301' $'\ufb01x' $'\uff21\uff22' $'\u2075' $'\u2168' $'\u00aa' $'\u212b' $'\u1e9b\u0323' $'\uac00'
    # Spaces, and what is mapped to nothing.
    $'a\u00a0b' $'a\u2003b' $'a\u3000b' $'I\u00adX' $'a\u200bb' $'\u00ad' $'\u200b\u2060' $'a\ufeffb' $'a\u180eb' $'\ufe0fa'
    # What may not be in it.
    $'\u0007' $'a\u0085' $'\ue000' $'\ufdd0x' $'\ufffd' $'a\u2028' $'\u200ex' $'\u0340x' $'\u206ax' $'\U000e0001x'
    $'\U0001fffe' $'\ufff9x' $'\u2ff0x' $'\u06dd'
    # Letters of both directions.
    $'\u0627\u0031' $'\u0627\u0031\u0628' $'\u0627x\u0628' $'\u05d0\u05d1' $'1\u05d0' $'x\u05d0' $'\u05d0\u0301'
    # Not assigned in Unicode 3.2, and assigned later.
    $'\u0221' $'\u0221x' $'\U0001f600' $'\u20bf' $'\u1e9e' $'\u0378' $'\U00010330' $'\u4e2d\u6587' $'\u0e01\u0e33' $'\U0002f800'
    "$(printf 'x%.0s' {1..300})")

psql() { "$bindir/psql" -h "$dir" -U postgres -XAqt -v ON_ERROR_STOP=1 "$@"; }
number=0
{
    echo "set password_encryption = 'scram-sha-256';"
    for password in "${passwords[@]}"; do
        number=$((number + 1))
        echo "create role r$number password '${password//\'/\'\'}';"
    done
    echo "set password_encryption = 'md5';"
    for password in "${passwords[@]:0:12}"; do
        number=$((number + 1))
        echo "create role r$number password '${password//\'/\'\'}';"
    done
} | psql
number=0
for password in "${passwords[@]}" "${passwords[@]:0:12}"; do
    number=$((number + 1))
    printf '%s\t%s\t%s\n' "r$number" "$(printf %s "$password" | od -An -v -tx1 | tr -d ' \n')" \
        "$(psql -c "select rolpassword from pg_authid where rolname = 'r$number'")"
done

#!/bin/sh
# Prints the hosts that can run workers, one `host:slots` a line, for horovodrun --host-discovery-script.
#
#   discover_hosts.sh list HOST:SLOTS,...       a fixed list
#   discover_hosts.sh file HOSTFILE             lines `host slots=N`, `host:N` or `host`; read again each time
#   discover_hosts.sh dns NAME                  the IPv4 addresses that a name has: the ready pods of a headless Service
#   discover_hosts.sh kubernetes SELECTOR       pods that are ready, by label, such as app=tfpipe-worker, by kubectl
#   discover_hosts.sh local [COUNT]             this machine, under COUNT names with one slot each; default: twice its
#                                               cores, as names beyond --max-np replace those of workers that died
#
# Without arguments the first of these variables that is set decides, and `local` where none is:
#
#   TFPIPE_HOSTS=HOST:SLOTS,...   TFPIPE_HOSTFILE=HOSTFILE   TFPIPE_HOSTS_DNS=NAME   TFPIPE_KUBERNETES_SELECTOR=SELECTOR
#
# TFPIPE_SLOTS                  slots of a host that names none; default 1
# TFPIPE_KUBERNETES_NAMESPACE   default: the pod's own, as kubectl finds it
# KUBECTL                       default kubectl
#
# It prints the whole list or, with exit code 1 and the reason, nothing: horovodrun then keeps the list it had.
set -eu

slots=${TFPIPE_SLOTS:-1}

die() {
  printf 'discover_hosts.sh: %s\n' "$*" >&2
  exit 1
}

# Reads `host`, `host:N` and `host slots=N`, with comments and empty lines; prints `host:N`. Names what it cannot read.
normalized() {
  awk -v default_slots="$slots" -v where="$1" '
    { sub(/#.*/, ""); sub(/\r$/, "") }
    NF == 0 { next }
    {
      host = $1; count = default_slots
      if (NF == 1 && split($1, parts, ":") == 2) { host = parts[1]; count = parts[2] }
      else if (NF == 2 && $2 ~ /^slots=/) { count = substr($2, 7) }
      else if (NF != 1) { count = "" }
      if (host !~ /^[A-Za-z0-9_.-]+$/ || count !~ /^[0-9]+$/ || count < 1) {
        printf "discover_hosts.sh: %s: expected `host:slots`, `host slots=N` or `host`, received `%s`.\n", where, $0 > "/dev/stderr"
        failed = 1; exit 1
      }
      if (host in seen) next
      seen[host] = 1; print host ":" count
    }
    END { exit failed }'
}

from_list() {
  printf '%s\n' "$1" | tr ',' '\n' | normalized "list of hosts"
}

from_file() {
  [ -r "$1" ] || die "expected a hostfile that can be read, received '$1'."
  name=$1
  normalized "$name" <"$1"
}

from_dns() {
  # One line for each kind of socket.
  addresses=$(getent ahostsv4 "$1") || die "expected a name that has addresses, received '$1'; no pod may be ready yet."
  printf '%s\n' "$addresses" | awk '{ print $1 }' | sort -u | normalized "addresses of '$1'"
}

from_kubernetes() {
  kubectl=${KUBECTL:-kubectl}
  command -v "$kubectl" >/dev/null || die "expected '$kubectl' on the PATH, found none. Install it in the launcher's image."
  # A pod that is going away stays ready for a while, but has a time of deletion.
  pods=$("$kubectl" get pods ${TFPIPE_KUBERNETES_NAMESPACE:+--namespace "$TFPIPE_KUBERNETES_NAMESPACE"} --selector "$1" \
    --output 'jsonpath={range .items[*]}{.status.podIP},{.status.conditions[?(@.type=="Ready")].status},{.metadata.deletionTimestamp}{"\n"}{end}') \
    || die "kubectl could not list the pods '$1'."
  printf '%s\n' "$pods" | awk -F, '$1 != "" && $2 == "True" && $3 == "" { print $1 }' | normalized "pods '$1'"
}

# Horovod gives up a host when one of its workers dies. 127.0.0.01 is a way to write 127.0.0.1, and so another host.
from_this_machine() {
  case $1 in '' | *[!0-9]*) die "expected a number of workers, received '$1'." ;; esac
  awk -v count="$1" 'BEGIN {
    name = "127.0.0."
    for (i = 0; i < count; i++) { print (i == 0 ? "localhost" : name "1") ":1"; if (i > 0) name = name "0" }
  }'
}

if [ $# -eq 0 ]; then
  if [ -n "${TFPIPE_HOSTS:-}" ]; then
    set -- list "$TFPIPE_HOSTS"
  elif [ -n "${TFPIPE_HOSTFILE:-}" ]; then
    set -- file "$TFPIPE_HOSTFILE"
  elif [ -n "${TFPIPE_HOSTS_DNS:-}" ]; then
    set -- dns "$TFPIPE_HOSTS_DNS"
  elif [ -n "${TFPIPE_KUBERNETES_SELECTOR:-}" ]; then
    set -- kubernetes "$TFPIPE_KUBERNETES_SELECTOR"
  else
    set -- local
  fi
fi

case $1:$# in
  list:2) hosts=$(from_list "$2") ;;
  file:2) hosts=$(from_file "$2") ;;
  dns:2) hosts=$(from_dns "$2") ;;
  kubernetes:2) hosts=$(from_kubernetes "$2") ;;
  local:1) hosts=$(from_this_machine $((2 * $(nproc)))) ;;
  local:2) hosts=$(from_this_machine "$2") ;;
  *) die "expected 'list HOSTS', 'file HOSTFILE', 'dns NAME', 'kubernetes SELECTOR' or 'local [COUNT]', received '$*'." ;;
esac
[ -z "$hosts" ] || printf '%s\n' "$hosts"

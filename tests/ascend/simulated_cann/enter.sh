#!/usr/bin/env bash
# Runs a command on a host with simulated Ascend devices: SIMULATED_CANN=<folder of build.sh> enter.sh COMMAND...
# A private mount namespace (root). The host's own /usr/local and /dev stay as they are, and all is gone when the
# command and what it started have ended. The command has the process id of this script, so signals reach it.
set -euo pipefail
: "${SIMULATED_CANN:?set SIMULATED_CANN to the folder that build.sh filled}"
[ "${1:-}" = --inside ] || exec unshare --mount --propagation private "$0" --inside "$@"
shift

# A tmpfs can be mounted on a folder only that is there: one takes the place of /usr/local, with all of it bound in.
if [ ! -d /usr/local/Ascend ]; then
  kept=$(mktemp -d); mount --rbind /usr/local "$kept"; mount -t tmpfs -o mode=755 tmpfs /usr/local
  for entry in "$kept"/*; do
    name=/usr/local/${entry##*/}
    if [ -L "$entry" ]; then cp -P "$entry" "$name"
    elif [ -d "$entry" ]; then mkdir "$name"; mount --rbind "$entry" "$name"
    else touch "$name"; mount --bind "$entry" "$name"; fi
  done
  mkdir /usr/local/Ascend; umount -l "$kept"; rmdir "$kept"
fi
mount -t tmpfs -o mode=755 tmpfs /usr/local/Ascend

# CANN as its installers leave it, as far as somebody looks at it: install FOLDER VERSION.
install() {
  local root=/usr/local/Ascend/$1 python=/usr/local/Ascend/$1/python/site-packages
  mkdir -p "$root"/{lib64/plugin/{opskernel,nnengine},bin,compiler/ccec_compiler/bin,opp/built-in/op_impl/ai_core/tbe} \
    "$python"/{te,tbe,hccl}
  echo "Version=$2" > "$root/compiler/version.info"
  cp "$SIMULATED_CANN"/*.so "$root/lib64/"; rm "$root/lib64/libfull_tls.so"
  local name missing=${SIMULATED_CANN_MISSING:-}
  for name in ${missing//,/ }; do rm "$root/lib64/$name"; done
  # The libraries of another CANN: of the same names, without what this one's are asked for.
  [ -z "${SIMULATED_CANN_FOREIGN:-}" ] || cp "$SIMULATED_CANN/libgraph.so" "$root/lib64/libascendcl.so"
  [ -z "${SIMULATED_CANN_FULL_TLS:-}" ] || cp "$SIMULATED_CANN/libfull_tls.so" "$root/lib64/libge_runner.so"
  touch "$python"/{tbe,hccl}/__init__.py
  cat > "$python/te/__init__.py" <<'PYTHON'
import os
for name in filter(None, os.environ.get("SIMULATED_CANN_TE_IMPORTS", "").split(",")):
    __import__(name)
PYTHON
}
installed=${SIMULATED_CANN_INSTALLED-ascend-toolkit/latest=6.3.T200}
for one in ${installed//,/ }; do install "${one%%=*}" "${one#*=}"; done
if [ -z "${SIMULATED_CANN_NO_DRIVER:-}" ]; then
  mkdir -p /usr/local/Ascend/driver/lib64/{driver,common}
  echo "Version=23.0.rc1" > /usr/local/Ascend/driver/version.info
fi

# /dev with the driver's nodes, which here are /dev/null by other names, and a /dev/shm of its own.
dev=$(mktemp -d); mount -t tmpfs -o mode=755 tmpfs "$dev"
cp -a /dev/{null,zero,full,random,urandom,tty} "$dev"/
ln -s /proc/self/fd "$dev/fd"; ln -s fd/0 "$dev/stdin"; ln -s fd/1 "$dev/stdout"; ln -s fd/2 "$dev/stderr"
for node in davinci_manager devmm_svm hisi_hdc $(seq -f davinci%g 0 $((${SIMULATED_CANN_DEVICES:-1} - 1))); do
  mknod -m "${SIMULATED_CANN_NODE_MODE:-660}" "$dev/$node" c 1 3
done
mkdir "$dev"/{shm,pts}
mount -t tmpfs -o "mode=1777,size=${SIMULATED_CANN_SHM:-4g}" tmpfs "$dev/shm"; mount --rbind /dev/pts "$dev/pts"
ln -s pts/ptmx "$dev/ptmx"; mount --move "$dev" /dev; rmdir "$dev"

# A disk of its own below HOME, as small as the test wants it.
[ -z "${SIMULATED_CANN_HOME_SIZE:-}" ] || mount -t tmpfs -o "mode=700,size=$SIMULATED_CANN_HOME_SIZE" tmpfs "$HOME"
exec "$@"

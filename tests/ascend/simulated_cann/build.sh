#!/usr/bin/env bash
# Builds the simulator: build.sh OUTPUT-FOLDER [FOLDER-OF-MINDSPORE-LITE]. Needs g++ (and its binutils).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
out=${1:?usage: build.sh OUTPUT-FOLDER [FOLDER-OF-MINDSPORE-LITE]}
lite=${2:-${METRIC_LEARN_LITE_DIR:-.runtime/mindspore-lite-2.0.0}}
[ -e "$lite/libascend_kernel_plugin.so" ] || { echo "no MindSpore Lite with Ascend plugins in $lite" >&2; exit 1; }
mkdir -p "$out"; work=$(mktemp -d); trap 'rm -rf "$work"' EXIT
compile() { g++ -std=c++17 -O1 -fPIC -Wall -Wno-return-type-c-linkage -D_GLIBCXX_USE_CXX11_ABI=0 "$@"; }
compile -c "$here/runtime.cc" -o "$work/acl.o" & one=$!
compile -c -fkeep-inline-functions "$here/graph_compiler.cc" -o "$work/ge.o" & two=$!
compile -c "$here/network.cc" -o "$work/network.o"; wait $one; wait $two

# What Lite asks of CANN and the simulator has no body for: functions that record their name and return 0, which is
# success (of SetAttr the operator itself, of GetAttr that there is none), and tables of nothing.
nm -P -g --defined-only "$work"/{acl,ge}.o | awk '{print $1}' | sort -u > "$work/own"
nm -D -P --undefined-only "$lite"/lib{ascend_kernel_plugin,ascend_pass_plugin,mslite_shared_lib}.so |
  awk '$1 ~ /^acl|^_Z(N|NK|TVN)2ge/ {print $1}' | sort -u | comm -23 - "$work/own" > "$work/rest"
awk 'BEGIN { print ".section .note.GNU-stack,\"\",@progbits" }
  /^_ZT/ { print ".data\n.globl " $1 "\n.type " $1 ",@object\n.balign 16\n" $1 ": .zero 512"; next }
  { result = /7SetAttr|AddControlInput/ ? "movq (%rsp), %rax" : /7GetAttr/ ? "movl $1, %eax" : "xorl %eax, %eax"
    print ".section .rodata\n.Lname" NR ": .string \"" $1 "\"\n.text\n.globl " $1 "\n.type " $1 ",@function\n" $1 ":"
    print " subq $8, %rsp\n movq %rdi, (%rsp)\n leaq .Lname" NR "(%rip), %rdi\n call simulated_without_body"
    print " " result "\n addq $8, %rsp\n ret" }' "$work/rest" > "$work/rest.s"
echo '{ global: acl*; _ZN2ge*; _ZNK2ge*; _ZTVN2ge*; local: *; };' > "$work/exported"
compile -shared -o "$out/libascendcl.so" -Wl,-soname,libascendcl.so,--version-script="$work/exported" \
  "$work"/{acl,ge}.o "$work/rest.s" -ldl -lpthread

# The other libraries of CANN that Lite's are linked against hold nothing, but have to be there.
touch "$work/empty.cc"
for file in "$lite"/lib{ascend_kernel_plugin,mslite_shared_lib}.so; do readelf -d "$file"; done |
  sed -n 's/.*(NEEDED).*\[\(lib.*\.so\)\]/\1/p' | sort -u | while read -r name; do
    [ -e "$lite/$name" ] || [ "$name" = libascendcl.so ] || compile -shared -o "$out/$name" -Wl,-soname,"$name" \
      "$work/empty.cc"
  done

# One that wants more of the storage for threads than a process keeps for libraries that are opened late.
echo '__attribute__((tls_model("initial-exec"))) __thread char own[1 << 20]; char *use() { return own; }' > "$work/tls.cc"
compile -shared -o "$out/libfull_tls.so" -Wl,-soname,libge_runner.so "$work/tls.cc"

# network.cc finds MindSpore Lite under the name by which the worker has it loaded.
soname=$(readelf -d "$lite/libmindspore-lite.so" | sed -n 's/.*(SONAME).*\[\(.*\)\]/\1/p')
compile -shared -o "$work/lite.so" -Wl,-soname,"$soname" "$work/empty.cc"
compile -shared -o "$out/libsimulated_network.so" "$work/network.o" -Wl,--no-as-needed "$work/lite.so" -ldl
echo "simulated CANN in $out: $(ls "$out" | wc -l) libraries, $(wc -l < "$work/rest") functions without a body"

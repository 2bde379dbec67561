#!/bin/bash
# Breaks the machine (src/resume) and the status table (src/grpc/status) in
# every small way that cargo-mutants knows, and demands that a unit test fails
# each time. What survives must be in tests/mutants-accepted.txt with its
# reason, and what is there must survive.
#
#   scripts/mutants.sh                          everything
#   scripts/mutants.sh src/resume/batch.rs ...  only these files
set -euo pipefail
cd "$(dirname "$0")/.."

VERSION=27.1.0
JOBS=${MUTANTS_JOBS:-2}
ACCEPTED=tests/mutants-accepted.txt
OUT=$PWD/target/mutants
export CARGO_PROFILE_DEV_DEBUG=0

if [ "$(cargo mutants --version 2>/dev/null)" != "cargo-mutants $VERSION" ]; then
	echo "installing cargo-mutants $VERSION" >&2
	nice cargo install --locked --version "$VERSION" cargo-mutants
fi

machine=() # --file ... of src/resume
table=no
if [ $# -eq 0 ]; then
	machine=(--file 'src/resume/**/*.rs')
	table=yes
fi
for file; do
	[ -f "$file" ] || {
		echo "mutants.sh: $file: no such file" >&2
		exit 2
	}
	case $file in
	src/resume/*) machine+=(--file "$file") ;;
	src/grpc/status/*) table=yes ;;
	*)
		echo "mutants.sh: $file: only src/resume/ and src/grpc/status/ are known here" >&2
		exit 2
		;;
	esac
done

rm -rf "$OUT"
mkdir -p "$OUT/tmp"

# mutate NAME DIRECTORY ARGUMENTS...: 2 is a survivor, 3 a timeout, which counts as caught.
mutate() {
	local name=$1 directory=$2 rc=0
	shift 2
	TMPDIR=$OUT/tmp nice -n 10 cargo mutants --dir "$directory" --output "$OUT/$name" \
		--cargo-arg=--lib --no-shuffle --colors never --timeout 20 "$@" || rc=$?
	case $rc in 0 | 2 | 3) ;; *) exit "$rc" ;; esac
}

if [ ${#machine[@]} -gt 0 ]; then
	mutate machine "$(scripts/scratch.sh resume)" --gitignore=false --jobs "$JOBS" \
		"${machine[@]}"
fi
if [ $table = yes ]; then
	# In place: a copy would build every dependency again.
	mutate table "$(scripts/scratch.sh whole)" --in-place \
		--file 'src/grpc/status/*.rs' -- grpc::status
fi

# A mutant is named without its line and column: those change with every edit.
# Two of one name are two lines.
all() {
	local kind
	for kind; do
		find "$OUT" -path "*/mutants.out/$kind.txt" -exec cat {} +
	done | sed -E 's/^([^:]*):[0-9]+:[0-9]+: /\1: /' | sort
}
of_these_files() {
	if [ $# -eq 0 ]; then cat; else grep -F "$(printf '%s: \n' "$@")" || true; fi
}
all missed >"$OUT/survived"
grep -vE '^(#|$)' "$ACCEPTED" | of_these_files "$@" | sort >"$OUT/accepted"
unexplained=$(comm -23 "$OUT/survived" "$OUT/accepted")
obsolete=$(comm -13 "$OUT/survived" "$OUT/accepted")
no_reason=$(awk '/^$/ { reason = 0 } /^#/ { reason = 1 } /^[^#]/ && !reason' "$ACCEPTED")

count() { all "$@" | wc -l; }
echo
echo "$(count caught missed timeout unviable) mutants: $(count caught) caught, $(count timeout) timed out," \
	"$(count unviable) do not compile, $(wc -l <"$OUT/survived") survived"
failed=0
# report TITLE LINES
report() {
	[ -n "$2" ] || return 0
	printf '\n%s\n%s\n' "$1" "$2"
	failed=1
}
report "survived, and not in $ACCEPTED:" "$unexplained"
report "in $ACCEPTED, but caught or gone:" "$obsolete"
report "in $ACCEPTED, but without a reason above it:" "$no_reason"
exit $failed

#!/bin/bash
# Makes every mistake of tests/mistakes in a copy of the project, one at a time,
# and demands that the tests which its patch names fail.
#
#   scripts/mistakes.sh            all of them
#   scripts/mistakes.sh NAME...    only these: tests/mistakes/NAME.patch
#   scripts/mistakes.sh --check    makes none: do the patches apply, do their tests exist?
#
# A patch begins with what the mistake is and what follows from it. Each line
#
#   Caught by: --test upstream opening::opened_with_its_guard_comes_before_the_history
#
# names a target of cargo test and a test of it that has to fail.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD

# A test that a mistake made wait forever has not caught it.
TEST_SECONDS_MAX=300
export CARGO_PROFILE_DEV_DEBUG=0

title() { head -n 1 "$1"; }
catchers() { sed -n 's/^Caught by: //p' "$1"; }

# What keeps a patch from being tried, if anything.
rotten() {
	local patch=$1 target name
	[ -n "$(catchers "$patch")" ] || echo "no line 'Caught by:'"
	git apply --check "$patch" 2>&1 || true
	while read -r target name; do
		name=${name##* }
		grep -rqE "fn ${name##*::}\(" src tests || echo "there is no test ${name##*::} (of $target)"
	done < <(catchers "$patch")
}

patches=()
if [ $# -eq 0 ] || [ "$1" = --check ]; then
	patches=(tests/mistakes/*.patch)
else
	for name; do patches+=("tests/mistakes/$name.patch"); done
fi
failed=0
for patch in "${patches[@]}"; do
	problem=$(rotten "$patch")
	if [ -n "$problem" ]; then
		printf '%s:\n%s\n' "$patch" "$problem" >&2
		failed=1
	fi
done
[ $failed -eq 0 ] || exit 1
if [ "${1:-}" = --check ]; then exit 0; fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT

# Tests of src/resume run on a copy of it alone, which builds in seconds.
kind_of() { case $1 in '--lib resume::'*) echo resume ;; *) echo whole ;; esac; }
declare -A copies

# run TEST: prints the tests that failed; is 0 if all went well.
run() (
	cd "${copies[$(kind_of "$1")]}"
	command='cargo test'
	if [ "$(kind_of "$1")" = whole ]; then command=scripts/test.sh; fi
	rc=0
	# shellcheck disable=SC2086 # lists of words
	{
		$command ${1% *} --no-run && timeout "$TEST_SECONDS_MAX" $command $1
	} </dev/null >"$log" 2>&1 || rc=$?
	sed -n 's/^test \(.*\) \.\.\. FAILED$/\1/p' "$log"
	exit $rc
)
stop() {
	cat "$log" >&2
	echo "mistakes.sh: $1" >&2
	exit 1
}

echo "without a mistake, every one of these tests has to pass" >&2
while read -r catcher; do
	kind=$(kind_of "$catcher")
	[ -n "${copies[$kind]:-}" ] || copies[$kind]=$(scripts/scratch.sh "$kind")
	run "$catcher" >/dev/null || stop "$catcher fails without any mistake"
	grep -q '^test .* \.\.\. ok$' "$log" || stop "$catcher: no such test"
done < <(for patch in "${patches[@]}"; do catchers "$patch"; done | sort -u)

# Patches that need only the small copy first; the others build on each other.
row() { printf '%-54s | %4s | %s\n' "$@"; }
row mistake s 'caught by'
row "$(printf '%054d' 0 | tr 0 -)" ---- "$(printf '%040d' 0 | tr 0 -)"
started=$SECONDS
missed=0
for patch in "${patches[@]}"; do
	since=$SECONDS
	first='' passed=''
	declare -A broken=()
	while read -r catcher; do
		kind=$(kind_of "$catcher")
		if [ -z "${broken[$kind]:-}" ]; then
			git apply --directory="${copies[$kind]#"$root"/}" "$patch"
			broken[$kind]=yes
		fi
		by=$(run "$catcher") || true
		if [ -z "$by" ]; then
			passed+="${passed:+, }$catcher"
			grep -E '^error' "$log" >&2 || true
		fi
		case $catcher in
		'--test '*) target=${catcher#--test } by="tests/${target%% *} $by" ;;
		esac
		[ -n "$first" ] || first=${by%%$'\n'*}
	done < <(catchers "$patch")
	for kind in "${!broken[@]}"; do
		git apply --reverse --directory="${copies[$kind]#"$root"/}" "$patch"
	done
	name=$(basename "$patch" .patch)
	if [ -n "$passed" ]; then
		row "$name" $((SECONDS - since)) "NOT CAUGHT by $passed"
		missed=$((missed + 1))
	else
		row "$name" $((SECONDS - since)) "$first"
	fi
done
echo "${#patches[@]} mistakes, $missed not caught, $((SECONDS - started)) s"
[ $missed -eq 0 ]

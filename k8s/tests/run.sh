#!/bin/bash
# Tests the manifests, the alerts and the image, and lives through a demo in a real pod.
#
#   k8s/tests/run.sh                   everything
#   k8s/tests/run.sh test_manifests... only these modules
#
# What Debian does not have comes from PyPI and through Go's module proxy into
# target/k8s: the schemas of Kubernetes and of the Prometheus operator, and
# kustomize, which is what kubectl kustomize runs. KUSTOMIZE='kubectl kustomize'
# takes kubectl's instead.
set -euo pipefail
cd "$(dirname "$0")/../.."

KUSTOMIZE_VERSION=v5.8.0
OPERATOR_VERSION=v0.85.0
tools=$PWD/target/k8s
mkdir -p "$tools"

if ! cmp -s k8s/tests/requirements.txt "$tools/venv/requirements.txt"; then
	/usr/bin/python3 -m venv --clear "$tools/venv"
	"$tools/venv/bin/pip" install --quiet --disable-pip-version-check -r k8s/tests/requirements.txt
	cp k8s/tests/requirements.txt "$tools/venv/"
fi
if [ -z "${KUSTOMIZE:-}" ]; then
	KUSTOMIZE=$tools/kustomize-$KUSTOMIZE_VERSION/kustomize
	[ -x "$KUSTOMIZE" ] || GOBIN=$(dirname "$KUSTOMIZE") \
		go install "sigs.k8s.io/kustomize/kustomize/v5@$KUSTOMIZE_VERSION"
	KUSTOMIZE="$KUSTOMIZE build"
fi
OPERATOR_DIR=$(cd "$tools" && GOFLAGS=-mod=mod go mod download -json \
	"github.com/prometheus-operator/prometheus-operator@$OPERATOR_VERSION" |
	sed -n 's/^\t"Dir": "\(.*\)",$/\1/p')
export KUSTOMIZE OPERATOR_DIR PYTHONDONTWRITEBYTECODE=1
echo "kustomize: $KUSTOMIZE"

tests() { (cd k8s/tests && "$tools/venv/bin/python" -m run "$@"); }

case "${*:-pod}" in
*pod* | *image*)
	if [ "$(id -u)" -ne 0 ] || ! podman --version; then
		[ $# -gt 0 ] || tests test_alerts test_manifests || true
		echo 'run.sh: NEITHER IMAGE NOR POD WAS TESTED: that needs podman, and root' >&2
		echo 'test result: FAILED. 0 passed; 1 failed'
		exit 1
	fi
	k8s/build.sh target/image
	k8s/demo/app/build.sh target/image/follower
	export IMAGE_ROOT=$PWD/target/image/root FOLLOWER=$PWD/target/image/follower
	;;
esac
tests "$@"

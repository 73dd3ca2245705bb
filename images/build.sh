#!/usr/bin/env bash
# Build advgrpo's images with docker or buildah, whichever is available; see images/README.md.
set -euo pipefail
cd "$(dirname "$0")/.."

refuse() {
    printf 'error: %s\n  repair: %s\n' "$1" "$2" >&2
    exit 2
}

find_engine() {
    if docker info >/dev/null 2>&1; then
        echo docker
    elif command -v buildah >/dev/null; then
        echo buildah
    elif command -v docker >/dev/null; then
        refuse "docker is installed, but its daemon does not answer" \
            "start it, or install buildah, which needs no daemon"
    else
        refuse "neither docker nor buildah is installed" \
            "install one, for instance: apt-get install buildah"
    fi
}

version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' advgrpo/__init__.py)
tag=${TAG:-$version}
[[ $tag != latest ]] ||
    refuse "TAG=latest: a moving tag" \
        "unset TAG to use the version, or set it to a release"
revision=${REVISION:-$(git describe --always --abbrev=40 --dirty --exclude '*' || echo unknown)}
engine=${ENGINE:-$(find_engine)}
case $engine in
    docker) build=(docker build) ;;
    buildah) build=(buildah bud --layers) ;;
    *) refuse "ENGINE=$engine: unknown engine" "unset it, or set it to docker or buildah" ;;
esac

registry=${REGISTRY:-localhost}
registry=${registry%/}
[[ -z ${PUSH:-} || $registry != localhost ]] ||
    refuse "PUSH=$PUSH without REGISTRY: there is nothing to push to" \
        "set REGISTRY to the registry of the cluster, for instance registry.example.org/team"

for image in ${IMAGES:-launcher trainer}; do
    name=$registry/advgrpo-$image-python:$tag
    # shellcheck disable=SC2086 - BUILD_OPTIONS may be several words
    "${build[@]}" \
        --file "images/$image/Dockerfile" \
        --tag "$name" \
        --build-arg "VERSION=$version" \
        --build-arg "REVISION=$revision" \
        ${PYTHON_IMAGE:+--build-arg "PYTHON_IMAGE=$PYTHON_IMAGE"} \
        ${BUILD_OPTIONS:-} \
        .
    echo "built $name"
    if [[ -n ${PUSH:-} ]]; then
        "$engine" push "$name"
        echo "pushed $name"
    fi
done
echo "values of the chart: images.registry=$registry, images.*.tag=$tag"

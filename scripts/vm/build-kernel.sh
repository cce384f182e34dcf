#!/bin/sh
# Build a kernel for the guests of the tests.
# usage: build-kernel.sh ARCH SOURCE FOLDER
#   ARCH    x86_64, aarch64 or s390x
#   SOURCE  a Debian package with a kernel's source: linux-source-6.12, or linux-source-7.2/sid for
#           one of another suite; or a folder with an unpacked, clean source tree
#   FOLDER  gets the image and its config
set -eu

fail() {
    echo "build-kernel: $*" >&2
    exit 1
}

[ $# = 3 ] || fail "usage: build-kernel.sh ARCH SOURCE FOLDER"
arch=$1
source=$2
folder=$3
here=$(cd "$(dirname "$0")" && pwd)

case $arch in
x86_64) karch=x86 target=bzImage image=arch/x86/boot/bzImage cross=x86_64-linux-gnu- compiler=gcc-x86-64-linux-gnu ;;
aarch64) karch=arm64 target=Image image=arch/arm64/boot/Image cross=aarch64-linux-gnu- compiler=gcc-aarch64-linux-gnu ;;
s390x) karch=s390 target=bzImage image=arch/s390/boot/bzImage cross=s390x-linux-gnu- compiler=gcc-s390x-linux-gnu ;;
*) fail "no such architecture: $arch" ;;
esac
[ "$(uname -m)" != "$arch" ] || cross=
if [ -d "$source" ] && [ ! -f "$source/Kconfig" ]; then
    fail "$source has no kernel source"
fi

# -- tools -----------------------------------------------------------------------------------------
missing=
need() { command -v "$1" >/dev/null || missing="$missing $2"; }
need_header() { echo "#include <$1>" | cc -E - >/dev/null 2>&1 || missing="$missing $2"; }
need cc gcc
need make make
need flex flex
need bison bison
need bc bc
need perl perl
need xz xz-utils
[ -z "$cross" ] || need "${cross}gcc" "$compiler"
need_header libelf.h libelf-dev
need_header openssl/ssl.h libssl-dev
need_header stdio.h libc6-dev
if [ -n "$missing" ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "these Debian packages are missing:$missing"
    fi
    apt-get -qq update
    # shellcheck disable=SC2086 # a list of packages
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends $missing
fi

# -- the source ------------------------------------------------------------------------------------
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)
work=$(mktemp -d "$folder/work.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# A suite that the machine does not follow is read into a place of its own: nothing of the machine's
# package management changes.
apt_of_suite() {
    mkdir -p "$work/apt/lists/partial" "$work/apt/archives/partial"
    # shellcheck disable=SC2016 # apt's own variables
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(REPO_URI)' |
        awk '$1 == "Debian" && $2 !~ /-/ { print $3; exit }')
    [ -n "$mirror" ] || fail "apt has no Debian mirror to ask for $2"
    cat >"$work/apt/suite.sources" <<END
Types: deb
URIs: $mirror
Suites: $1
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
END
    set -- -o "Dir::Etc::SourceList=$work/apt/suite.sources" -o Dir::Etc::SourceParts=- \
        -o "Dir::State::Lists=$work/apt/lists" -o "Dir::Cache=$work/apt" "$2"
    apt_options=$*
}

download() {
    package=${source%%/*}
    apt_options=$package
    case $source in
    */*) apt_of_suite "${source#*/}" "$package" ;;
    esac
    cd "$work"
    # shellcheck disable=SC2086 # a list of options
    [ "$apt_options" = "$package" ] || apt-get -qq ${apt_options% *} update
    # shellcheck disable=SC2086 # the same
    apt-get -qq download $apt_options || fail "apt cannot bring $package"
    dpkg-deb -x "$package"_*.deb unpacked
    mkdir source
    tar -xf unpacked/usr/src/"$package".tar.xz -C source --strip-components=1
    rm -rf unpacked ./*.deb
    tree=$work/source
}

if [ -d "$source" ]; then
    tree=$(cd "$source" && pwd)
else
    download
fi

# -- configure and build ---------------------------------------------------------------------------
run_make() {
    make -C "$tree" O="$work/build" ARCH=$karch CROSS_COMPILE=$cross KBUILD_BUILD_USER=vfiocore \
        KBUILD_BUILD_HOST=vm "$@"
}
run_make -s tinyconfig
# Twice: some options can be chosen only once others are.
for _ in 1 2; do
    (cd "$tree" && scripts/kconfig/merge_config.sh -m -O "$work/build" "$work/build/.config" \
        "$here/common.config" "$here/$arch.config") >/dev/null
    run_make -s olddefconfig
done

# Older kernels do not have everything. Without these there is nothing to test.
for option in VFIO VFIO_GROUP VFIO_CONTAINER VFIO_IOMMU_TYPE1 VFIO_DEVICE_CDEV VFIO_PCI IOMMUFD \
    NET_9P_VIRTIO 9P_FS DEVTMPFS_MOUNT; do
    grep -q "^CONFIG_$option=y" "$work/build/.config" || fail "$source has no CONFIG_$option"
done
for option in $(sed -n 's/^\(CONFIG_[^=]*\)=y$/\1/p' "$here/common.config" "$here/$arch.config"); do
    grep -q "^$option=y" "$work/build/.config" || echo "build-kernel: $option is not to be had"
done

run_make -s -j"$(nproc)" $target
cp "$work/build/.config" "$folder/config"
cp "$work/build/$image" "$folder/$target.new"
mv "$folder/$target.new" "$folder/$target"
echo "build-kernel: $folder/$target"

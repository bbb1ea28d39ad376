#!/bin/sh
# Install external engines into an image: engines.sh "nnunet mindglide" PINS [EXTRA_INDEX]
#
# nnU-Net runs in the environment of mslesseg; every other engine has one of its own below
# /opt/engines, and its program a link beside ours, where its entry finds it (docs/engines.md).
# "none", or nothing, installs nothing.
set -eu

engines=$1
pins=$2
index=${3:-}
root=${ENGINES_ROOT:-/opt}

own() { # own PROGRAM PACKAGE...: an environment of its own, and a link to its program
    program=$1
    shift
    python3 -m venv "$root/engines/$engine"
    "$root/engines/$engine/bin/pip" install --quiet ${index:+--extra-index-url "$index"} "$@"
    ln -s "$root/engines/$engine/bin/$program" "$root/venv/bin/$program"
}

for engine in $engines; do
    case $engine in
        none | nnunet | lst-ai | mindglide | samseg) ;;
        *)
            echo "engines: there is no engine '$engine'; there are nnunet lst-ai mindglide samseg" >&2
            exit 64
            ;;
    esac
done
mkdir -p "$root/engines"
for engine in $engines; do
    case $engine in
        nnunet)
            "$root/venv/bin/pip" install --quiet -c "$pins" \
                ${index:+--extra-index-url "$index"} 'nnunetv2>=2.8,<3'
            ;;
        lst-ai) own lst 'lst-ai==2.0.0rc1' ;;
        mindglide) own mindglide 'mindglide==1.3.0' ;;
        samseg) own run_samseg 'samseg==0.4a0' 'tensorflow-cpu==2.15.1' ;;
    esac
done

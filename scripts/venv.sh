# Read by the other scripts: goes to the project's folder, and knows how to make a virtual environment there.
#
#   PYTHON  the interpreter to make it with (default: python3)
#   VENV    the folder to make it in (each script has its default)

cd "$(dirname "$0")/.." || exit 1
PYTHON=${PYTHON:-python3}
case $VENV in /*) ;; *) VENV=$PWD/$VENV ;; esac

say() { printf '%s\n' "$*" >&2; }

# use_venv REQUIREMENTS: have $VENV hold exactly these pinned packages and this project; quick when nothing changed.
use_venv() {
    command -v "$PYTHON" >/dev/null 2>&1 || {
        say "coatcheck needs Python 3.11 or newer, and there is no '$PYTHON' here. Install it, or name one: PYTHON=/path/to/python3 $0"
        exit 1
    }
    version=$("$PYTHON" -c 'import sys; print(".".join(map(str, sys.version_info[:3])), sys.version_info >= (3, 11))')
    case $version in
    *True) ;;
    *)
        say "coatcheck needs Python 3.11 or newer; '$PYTHON' is ${version% *}. Name a newer one: PYTHON=/path/to/python3 $0"
        exit 1
        ;;
    esac

    wanted=$(cat "$1" pyproject.toml scripts/venv.sh | "$PYTHON" -c 'import hashlib, sys
print(sys.version.split()[0], hashlib.sha256(sys.stdin.buffer.read()).hexdigest())') || exit 1
    wanted="$wanted $PWD"
    [ "$(cat "$VENV/.stamp" 2>/dev/null)" = "$wanted" ] && return

    say "Setting up $VENV with Python ${version% *} from $1 (once; half a minute or so) ..."
    case "$(cat "$VENV/.stamp" 2>/dev/null)" in
    "${version% *} "*) rm -f "$VENV/.stamp" ;;
    *) rm -rf "$VENV" && "$PYTHON" -m venv "$VENV" || exit 1 ;;
    esac
    install="$VENV/bin/python -m pip --disable-pip-version-check install --quiet --quiet --no-deps"
    $install --require-hashes --only-binary :all: -r "$1" || exit 1
    $install --no-build-isolation --editable . || exit 1
    printf '%s' "$wanted" >"$VENV/.stamp"
}

"""Makes the locales of the tests where they are not there yet: make_locales.py FOLDER"""
import os
import subprocess
import sys

# A comma; a decimal point of two bytes, U+066B; an I whose small letter is not i, in one byte.
LOCALES = ["de_DE.UTF-8", "ps_AF.UTF-8", "tr_TR.ISO-8859-9"]


def main():
    folder = sys.argv[1]
    os.makedirs(folder, exist_ok=True)
    for name in LOCALES:
        source, charmap = name.split(".")
        if os.path.exists(os.path.join(folder, name, "LC_NUMERIC")):
            continue
        try:
            subprocess.run(["localedef", "-i", source, "-f", charmap, os.path.join(folder, name)],
                           check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.exit(f"{name}: {error}; scripts/setup.sh --tests installs locales")


if __name__ == "__main__":
    main()

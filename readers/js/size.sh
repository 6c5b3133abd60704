#!/bin/sh
# Prints how many bytes the reader has when it is minified, and when that is also compressed by gzip; and the same of what applies
# updates. Terser is fetched from npm into a temporary folder.
set -eu
cd "$(dirname "$0")"
folder=$(mktemp -d)
trap 'rm -r "$folder"' EXIT
npm install --silent --no-fund --no-audit --prefix "$folder" terser@5.44.0
for module in deepcompress update; do
  "$folder/node_modules/.bin/terser" --module --ecma 2022 --compress passes=3,ecma=2022 --mangle <$module.js >"$folder/min.js"
  echo "$module.js, minified: $(wc -c <"$folder/min.js") bytes, and with gzip -9: $(gzip -9c "$folder/min.js" | wc -c) bytes"
done

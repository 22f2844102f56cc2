"""Records what pandas makes of metadata.csv, which Hugging Face's imagefolder reads with it.

    python tests/io/make_csv.py > tests/io/data/metadata_csv.json

Each entry: the file's text (BOM and line ends as they are) and the rows' file_name and text, or
null where pandas refuses the file. Recorded with pandas 3.1.1.
"""

import io
import json
import sys

import pandas

TEXTS = {
    "plain": "file_name,text\na.png,foggy\nb.png,night\n",
    "no end of line": "file_name,text\na.png,foggy\nb.png,night",
    "CRLF": 'file_name,text\r\na.png,"foggy, ""grey"""\r\nb.png,night\r\n',
    "CR": "file_name,text\ra.png,foggy\rb.png,night\r",
    "BOM": "\ufefffile_name,text\na.png,foggy\n",
    "BOM and quotes": '\ufeff"file_name","text"\n"a.png","foggy"\n',
    "blank lines": "\n\nfile_name,text\n\na.png,foggy\n \t \n\r\nb.png,night\n\n",
    "line breaks in quotes": 'file_name,text\na.png,"one\ntwo\r\nthree"\nb.png,"\n"\n',
    "only quotes": 'file_name,text\na.png,""\nb.png,""""\n',
    "after the quotes": 'file_name,text\na.png,"big" red\nb.png,"a"b"c"\n',
    "quotes within": 'file_name,text\na.png,6" tall\nb.png, "x"\n',
    "white space": "file_name,text\na.png,  two blanks  \nb.png,\ttab\n",
    "other columns": "id,text,file_name,score\n1,foggy,a.png,0.5\n2,night,b.png,\n",
    "empty column": "file_name,text,\na.png,foggy,\nb.png,night,\n",
    "other letters": "file_name,text\nü b.png,caf\u00e9 \u6708\n",
    "numbers and null": "file_name,text\na.png,007\nb.png,NA\nc.png,null\nd.png,1e5\n",
    "empty caption": "file_name,text\na.png,\nb.png,x\n",
    "no end of quotes": 'file_name,text\na.png,"foggy\nb.png,night\n',
    "too many fields": "file_name,text\na.png,foggy\nb.png,night, dark\n",
}

entries = []
for name, text in TEXTS.items():
    data = text.encode("utf-8")
    try:
        table = pandas.read_csv(io.BytesIO(data), dtype=str, keep_default_na=False)
        rows = table[["file_name", "text"]].values.tolist()
    except pandas.errors.ParserError:
        rows = None
    entries.append({"name": name, "csv": text, "rows": rows})
json.dump(entries, sys.stdout, ensure_ascii=True, indent=1)
print()

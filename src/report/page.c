/* The page around what is put on it, and its one style sheet. */
#include "report/report.h"

static const char report_head[] =
    "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">"
    "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; "
    "style-src 'unsafe-inline'\">"
    "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
    "<meta name=\"color-scheme\" content=\"light dark\">"
    "<style>\n"
    ":root{color-scheme:light dark;--paper:#fff;--ink:#1b1f24;--dim:#59636e;--line:#d0d7de;"
    "--tint:#f3f5f7;--mark:#fff4d1;--s0:#0b68a8;--s1:#c65102;--s2:#00805f;--s3:#a83e84;"
    "--s4:#8f6400;--s5:#2f8fc4;--s6:#6b4bb0;--s7:#5f6670}\n"
    "@media(prefers-color-scheme:dark){:root{--paper:#14171b;--ink:#e4e7eb;--dim:#9aa4af;"
    "--line:#39414b;--tint:#1d2228;--mark:#4a3d10;--s0:#58aee8;--s1:#ff9457;--s2:#3ccb9f;"
    "--s3:#e795cb;--s4:#e8bb4a;--s5:#98d3f5;--s6:#b79cf0;--s7:#aab2bc}}\n"
    "*{box-sizing:border-box}body{background:var(--paper);color:var(--ink);"
    "font:16px/1.5 system-ui,sans-serif;max-width:1240px;margin:0 auto;padding:1em;"
    "overflow-wrap:anywhere}"
    "h1{font-size:1.6em;line-height:1.25;margin:.4em 0}h2{font-size:1.25em;margin:1.6em 0 .5em;"
    "border-bottom:1px solid var(--line)}p{max-width:75ch}\n"
    ".wide{overflow-x:auto;margin:1em 0}table{border-collapse:collapse;font-size:.9em}"
    "caption{text-align:left;color:var(--dim);padding:.2em 0;position:sticky;left:0;"
    "max-width:min(75ch,100vw - 4em)}"
    "th,td{padding:.25em .5em;border-bottom:1px solid var(--line);vertical-align:top;"
    "text-align:left;overflow-wrap:break-word;max-width:26em}"
    "th{background:var(--tint);font-weight:600}td:first-child{min-width:7em}"
    ".n{text-align:right;font-variant-numeric:tabular-nums}.best{background:var(--mark)}"
    ".grid td,.grid th{min-width:5em;max-width:14em;text-align:center}"
    ".grid th[scope=row]{text-align:left;min-width:8em;font-weight:400}\n"
    "img{display:block;max-width:100%;height:auto;margin:auto}.small{image-rendering:pixelated;"
    "min-width:96px}"
    ".sheet{display:grid;grid-template-columns:repeat(auto-fill,minmax(180px,1fr));gap:.8em}"
    ".sheet figure{margin:0;display:block;border:1px solid var(--line);border-radius:4px;"
    "padding:.5em}.sheet p{margin:.2em 0;max-width:none;font-size:.85em;line-height:1.35}"
    ".shot{height:170px;display:flex;align-items:center;justify-content:center;"
    "background:var(--tint)}.shot div{position:relative;overflow:hidden;max-height:170px}"
    ".shot img{max-height:170px;width:auto;min-width:0}.shot span{position:absolute;"
    "border:2px solid var(--s1);box-shadow:0 0 0 999px rgb(0 0 0/.45)}"
    ".sheet .name{font-weight:600;color:var(--ink)}.said{color:var(--ink);"
    "border-left:3px solid var(--line);padding-left:.5em;max-height:12em;"
    "overflow:auto}.bad{color:var(--s1);font-weight:600}"
    ".bad::before{content:\"✗ \"}.warn::before{content:\"! \"}.warn{color:var(--s4)}\n"
    "figure{margin:0 1em 1em 0;display:inline-block;vertical-align:top;max-width:100%}"
    "figcaption{font-size:.9em;color:var(--dim)}.plot{width:560px;max-width:100%}"
    ".plot figcaption{color:var(--ink);font-weight:600}"
    ".plot svg{display:block;width:100%;height:auto}"
    ".legend{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.1em 1em;"
    "font-size:.85em}.legend li{display:flex;gap:.4em;align-items:center}"
    ".legend svg{width:26px;height:14px;flex:none}"
    "details{border:1px solid var(--line);border-radius:4px;padding:.3em .8em;margin:.5em 0}"
    "summary{cursor:pointer;font-weight:600}\n"
    "svg text{font:14px system-ui,sans-serif;fill:var(--ink);unicode-bidi:isolate}"
    ".halo{paint-order:stroke;stroke:var(--paper);stroke-width:3px;stroke-linejoin:round}"
    ".axis{stroke:var(--ink);fill:none}.rule{stroke:var(--dim);stroke-dasharray:2 3;fill:none}"
    ".gridline{stroke:var(--line);fill:none}.l{fill:none;stroke:var(--c);stroke-width:2;"
    "stroke-linejoin:round}.faint{opacity:.38;stroke-width:1}.m{fill:var(--c);fill-opacity:.75;"
    "stroke:var(--paper)}.b{fill:var(--c);fill-opacity:.8}.e{stroke:var(--c);fill:none}"
    ".front{stroke:var(--ink);stroke-dasharray:6 4;fill:none}.lead{stroke:var(--dim)}"
    ".s0{--c:var(--s0)}.s1{--c:var(--s1)}.s2{--c:var(--s2)}.s3{--c:var(--s3)}"
    ".s4{--c:var(--s4)}.s5{--c:var(--s5)}.s6{--c:var(--s6)}.s7{--c:var(--s7)}\n"
    "@media print{:root{color-scheme:light;--paper:#fff;--ink:#000;--dim:#444;--line:#bbb;"
    "--tint:#f3f3f3;--mark:#fff4d1;--s0:#0b68a8;--s1:#c65102;--s2:#00805f;--s3:#a83e84;"
    "--s4:#8f6400;--s5:#2f8fc4;--s6:#6b4bb0;--s7:#5f6670}"
    "body{font-size:10pt;padding:0;max-width:none}*{print-color-adjust:exact}"
    ".wide{overflow:visible}figure,tr,.legend{break-inside:avoid}h1,h2,summary{break-after:avoid}"
    ".plot{width:48%;margin-right:1%}.small{min-width:0}.grid td,.grid th{min-width:0}"
    "details{border:0;padding:0}details::details-content{content-visibility:visible;"
    "block-size:auto}}\n"
    "</style><title>";

sara_status sara_page_begin(sara_page *page, sara_context *ctx, const char *title)
{
    sara_status status;
    *page = (sara_page){.ctx = ctx, .text = {.ctx = ctx}};
    TRY(sara_buffer_put(&page->text, report_head));
    TRY(sara_put_escaped(&page->text, title));
    TRY(sara_buffer_put(&page->text, "</title></head><body><main>\n<h1 dir=\"auto\">"));
    TRY(sara_put_escaped(&page->text, title));
    TRY(sara_buffer_put(&page->text, "</h1>\n"));
done:
    return status;
}

sara_status sara_page_write(sara_page *page, const char *path)
{
    sara_status status;
    TRY(sara_buffer_put(&page->text, "</main></body></html>\n"));
    TRY(sara_file_write(page->ctx, path, page->text.data, page->text.length));
done:
    return status;
}

void sara_page_free(sara_page *page)
{
    sara_buffer_free(&page->text);
}

static sara_status page_put(sara_page *page, const char *before, const char *text,
                            const char *after)
{
    sara_status status;
    TRY(sara_buffer_put(&page->text, before));
    TRY(sara_put_escaped(&page->text, text));
    TRY(sara_buffer_put(&page->text, after));
done:
    return status;
}

sara_status sara_page_heading(sara_page *page, const char *text)
{
    return page_put(page, "<h2 dir=\"auto\">", text, "</h2>\n");
}

sara_status sara_page_paragraph(sara_page *page, const char *text)
{
    return page_put(page, "<p dir=\"auto\">", text, "</p>\n");
}

sara_status sara_page_fold_begin(sara_page *page, const char *summary)
{
    return page_put(page, "<details><summary dir=\"auto\">", summary, "</summary>\n");
}

sara_status sara_page_fold_end(sara_page *page)
{
    return sara_buffer_put(&page->text, "</details>\n");
}

#include "report/html.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum { NARROW = 5 };      /* tables of so few columns do not fill the page */

/* Fonts are those of the machine. Lines of text stay under 75 characters, tables and figures use the whole width. On paper: no shadows,
 * nothing torn apart between pages, colours kept. */
static const char style[] =
    ":root{--ink:#1c2733;--soft:#5b6875;--rule:#d5dbe1;--faint:#f5f7f9;--accent:#1b5f98;--warm:#b54c0b}\n"
    "*{box-sizing:border-box}\n"
    "html{background:#fff;color:var(--ink);font:15px/1.55 system-ui,'Segoe UI','Helvetica Neue',Arial,sans-serif;-webkit-text-size-adjust:100%}\n"
    "body{margin:0}\n"
    "main{max-width:1080px;margin:0 auto;padding:56px 40px 80px}\n"
    "h1{font-size:32px;line-height:1.2;letter-spacing:-.02em;font-weight:680;margin:0 0 6px}\n"
    ".lead{font-size:17px;color:var(--soft);margin:0 0 26px;max-width:none}\n"
    "section{margin-top:64px}\n"
    "h2{font-size:21px;line-height:1.3;letter-spacing:-.01em;font-weight:650;margin:0 0 10px}\n"
    "p{margin:0 0 14px;max-width:74ch}\n"
    ".missing{color:var(--soft);font-style:italic}\n"
    "code,pre{font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace}\n"
    "dl.facts{margin:0;padding:16px 0;border-top:1px solid var(--rule);"
    "border-bottom:1px solid var(--rule);font-size:13.5px}\n"
    "dl.facts div{display:grid;grid-template-columns:92px 1fr;margin:3px 0}\n"
    "dl.facts dt{color:var(--soft)}\n"
    "dl.facts dd{margin:0;font-family:ui-monospace,SFMono-Regular,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12.5px;line-height:1.65;"
    "overflow-wrap:anywhere}\n"
    "dl.terms{margin:0;columns:2;column-gap:48px;font-size:14px}\n"
    "dl.terms div{break-inside:avoid;margin-bottom:14px}\n"
    "dl.terms dt{font-weight:620}\n"
    "dl.terms dd{margin:0;color:#3a4653}\n"
    ".highlights{display:grid;grid-template-columns:repeat(auto-fit,minmax(190px,1fr));gap:16px 32px;margin:36px 0 0}\n"
    ".highlights div{border-left:3px solid var(--accent);padding-left:14px}\n"
    ".highlights b{display:block;font-size:30px;line-height:1.15;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}\n"
    ".highlights span{display:block;color:var(--soft);font-size:13.5px;line-height:1.4;margin-top:4px}\n"
    ".table{overflow-x:auto;margin:22px 0 8px}\n"
    "table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}\n"
    "table.narrow{width:auto}\n"
    "table.narrow th,table.narrow td{padding-right:36px}\n"
    ".figures+.table{margin-top:48px}\n"
    ".table+.table{margin-top:40px}\n"
    "caption{caption-side:bottom;text-align:left;color:var(--soft);font-size:13px;line-height:1.5;padding-top:10px}\n"
    "th{font-weight:600;color:var(--soft);font-size:12.5px;line-height:1.3;vertical-align:bottom;text-align:left;padding:0 12px 7px 0;"
    "border-bottom:1.5px solid var(--ink);white-space:nowrap}\n"
    "td{padding:7px 12px 7px 0;border-bottom:1px solid var(--rule);vertical-align:top}\n"
    "td:first-child,.num{white-space:nowrap}\n"
    "table tr>:last-child{padding-right:0}\n"
    ".num{text-align:right}\n"
    ".verdict{text-align:center}\n"
    "tr.strong td{background:var(--faint);font-weight:600}\n"
    ".yes{color:var(--accent);font-weight:620}\n"
    ".no{color:#fff;background:var(--warm);font-weight:700;padding:1px 8px;border-radius:3px}\n"
    ".figures{display:grid;grid-template-columns:repeat(auto-fit,minmax(460px,1fr));gap:36px 40px;margin:30px 0 0;align-items:start}\n"
    ".figures.one{grid-template-columns:1fr}\n"
    ".figures.three{grid-template-columns:repeat(auto-fit,minmax(300px,1fr));gap:32px 24px}\n"
    "figure{margin:0;break-inside:avoid;overflow-x:auto}\n"
    "figure svg{display:block;max-width:100%;height:auto}\n"
    "figcaption{color:var(--soft);font-size:13px;line-height:1.5;margin-top:10px;max-width:74ch}\n"
    ".sample{margin:22px 0 0;padding:0 0 0 18px;border-left:3px solid var(--rule);break-inside:avoid}\n"
    ".sample h3{font-size:12.5px;font-weight:600;color:var(--soft);margin:0 0 4px}\n"
    ".sample pre{margin:0;white-space:pre-wrap;overflow-wrap:anywhere;font-size:12.5px;line-height:1.6}\n"
    ".sample .prompt{color:#6a7682}\n"
    "@media (max-width:640px){main{padding:28px 18px}.figures{grid-template-columns:1fr}dl.terms{columns:1}}\n"
    "@media print{@page{margin:16mm 14mm}html{font-size:11pt;print-color-adjust:exact;-webkit-print-color-adjust:exact}main{max-width:none;padding:0}"
    "section{margin-top:32px}h2{break-after:avoid}"
    "table{font-size:8.5pt}th{font-size:8pt}td,th{padding-right:8px}.table,figure{overflow:visible}"
    "tr,.table{break-inside:avoid}.figures.three{grid-template-columns:1fr 1fr 1fr}"
    ".figures{grid-template-columns:1fr 1fr;gap:24px}.highlights{grid-template-columns:repeat(4,1fr)}.highlights b{font-size:20pt}}\n";

void gr_html_begin(gr_out *out, const char *title) {
    gr_out_put(out,
               "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n"
               "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\"/>\n"
               "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<meta name=\"color-scheme\" content=\"light\"/>\n<title>");
    gr_out_text(out, title);
    gr_out_put(out, "</title>\n<style>\n%s</style>\n</head>\n<body>\n<main>\n", style);
}

void gr_html_end(gr_out *out) { gr_out_put(out, "</main>\n</body>\n</html>\n"); }

static void element(gr_out *out, const char *open, const char *text, const char *close) {
    gr_out_put(out, "%s", open);
    gr_out_text(out, text);
    gr_out_put(out, "%s\n", close);
}

void gr_html_section(gr_out *out, const char *heading) { element(out, "<section>\n<h2>", heading, "</h2>"); }
void gr_html_section_end(gr_out *out) { gr_out_put(out, "</section>\n"); }

static void formatted(gr_out *out, const char *open, const char *format, va_list args) {
    char text[2048];
    vsnprintf(text, sizeof text, format, args);
    element(out, open, text, "</p>");
}

void gr_html_paragraph(gr_out *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    formatted(out, "<p>", format, args);
    va_end(args);
}

void gr_html_missing(gr_out *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    formatted(out, "<p class=\"missing\">", format, args);
    va_end(args);
}


void gr_html_figures(gr_out *out, int n_columns) {
    gr_out_put(out, "<div class=\"figures%s\">\n", n_columns == 1 ? " one" : n_columns == 3 ? " three" : "");
}


void gr_html_figures_end(gr_out *out) { gr_out_put(out, "</div>\n"); }
void gr_html_figure(gr_out *out) { gr_out_put(out, "<figure>\n"); }

void gr_html_figure_end(gr_out *out, const char *caption) {
    if (*caption) element(out, "<figcaption>", caption, "</figcaption>");
    gr_out_put(out, "</figure>\n");
}

/* ---- tables ---- */

static const char *class_of(gr_column_kind kind) {
    return kind == GR_COLUMN_NUMBER ? " class=\"num\"" : kind == GR_COLUMN_VERDICT ? " class=\"verdict\"" : "";
}

static void put_title(gr_out *out, gr_column column) {
    const char *split = strchr(column.title, '\n');
    char first[64];
    gr_out_put(out, "<th scope=\"col\"%s>", class_of(column.kind));
    if (split) {
        snprintf(first, sizeof first, "%.*s", (int)(split - column.title), column.title);
        gr_out_text(out, first);
        gr_out_put(out, "<br/>");
    }
    gr_out_text(out, split ? split + 1 : column.title);
    gr_out_put(out, "</th>");
}

/* A minus in print is as wide as a digit, a hyphen is not. */
static void put_cell(gr_out *out, const char *cell, gr_column_kind kind) {
    bool verdict = kind == GR_COLUMN_VERDICT, yes = verdict && !strcmp(cell, "yes"), no = verdict && !strcmp(cell, "no");
    bool minus = kind == GR_COLUMN_NUMBER && *cell == '-';
    gr_out_put(out, "<td%s>%s%s", class_of(kind), yes ? "<span class=\"yes\">" : no ? "<span class=\"no\">" : "", minus ? "\xE2\x88\x92" : "");
    gr_out_text(out, minus ? cell + 1 : cell);
    gr_out_put(out, "%s</td>", yes || no ? "</span>" : "");
}

void gr_html_table(gr_out *out, const gr_table *table, const char *caption) {
    if (!out->st) out->st = gr_table_status(table);
    int32_t n_columns = gr_table_n_columns(table);
    gr_out_put(out, "<div class=\"table\"><table%s>\n", n_columns <= NARROW ? " class=\"narrow\"" : "");
    if (*caption) element(out, "<caption>", caption, "</caption>");
    gr_out_put(out, "<thead><tr>");
    for (int32_t c = 0; c < n_columns; c++) put_title(out, gr_table_column(table, c));
    gr_out_put(out, "</tr></thead>\n<tbody>\n");
    for (int32_t r = 0; r < gr_table_n_rows(table); r++) {
        gr_out_put(out, "<tr%s>", gr_table_strong(table, r) ? " class=\"strong\"" : "");
        for (int32_t c = 0; c < n_columns; c++) put_cell(out, gr_table_cell(table, r, c), gr_table_column(table, c).kind);
        gr_out_put(out, "</tr>\n");
    }
    gr_out_put(out, "</tbody>\n</table></div>\n");
}

/* ---- small lists ---- */

void gr_html_highlights(gr_out *out) { gr_out_put(out, "<div class=\"highlights\">\n"); }
void gr_html_highlights_end(gr_out *out) { gr_out_put(out, "</div>\n"); }

void gr_html_highlight(gr_out *out, const char *number, const char *meaning) {
    bool minus = *number == '-';
    element(out, minus ? "<div><b>\xE2\x88\x92" : "<div><b>", minus ? number + 1 : number, "</b>");
    element(out, "<span>", meaning, "</span></div>");
}

void gr_html_list(gr_out *out, const char *css_class) { gr_out_put(out, "<dl class=\"%s\">\n", css_class); }
void gr_html_list_end(gr_out *out) { gr_out_put(out, "</dl>\n"); }

void gr_html_list_item(gr_out *out, const char *name, const char *text) {
    element(out, "<div><dt>", name, "</dt>");
    element(out, "<dd>", text, "</dd></div>");
}

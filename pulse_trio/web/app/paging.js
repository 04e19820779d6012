// Pages of a list: by cursor, or by offset from a service without cursors.

/** Returns where the page after `page` begins, or null if it is the last one. `read`: items up to its end. */
export function nextPage(page, read) {
  if (page.next_cursor === undefined) return read < page.total ? { offset: read } : null;
  return page.next_cursor === null ? null : { cursor: page.next_cursor };
}

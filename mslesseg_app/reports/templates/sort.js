'use strict';
(() => {
  // Sorting: each heading becomes a button; rows without a number go last.
  const keyOf = (row, column) => {
    const cell = row.cells[column];
    return 'value' in cell.dataset ? Number(cell.dataset.value) : cell.textContent.trim();
  };
  const compare = (one, two) => {
    if (typeof one === typeof two) {
      return typeof one === 'number' ? one - two : one.localeCompare(two, undefined, { numeric: true });
    }
    return typeof one === 'number' ? -1 : 1;
  };
  const sortBy = (table, head) => {
    const down = head.getAttribute('aria-sort') === 'ascending';
    for (const other of table.tHead.rows[0].cells) other.removeAttribute('aria-sort');
    head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
    const body = table.tBodies[0];
    const column = head.cellIndex;
    const rows = [...body.rows].sort((one, two) => {
      const order = compare(keyOf(one, column), keyOf(two, column));
      return down ? -order : order;
    });
    body.append(...rows);
  };
  for (const table of document.querySelectorAll('table.sortable')) {
    for (const head of table.tHead.rows[0].cells) {
      if ('nosort' in head.dataset) continue;
      const button = document.createElement('button');
      button.type = 'button';
      button.append(...head.childNodes);
      button.addEventListener('click', () => sortBy(table, head));
      head.append(button);
    }
  }
})();

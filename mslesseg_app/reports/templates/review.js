'use strict';
(() => {
  // Marks of exams: set by buttons or keys, kept in the browser, saved as a table.
  const section = document.getElementById('review');
  if (!section) return;
  const table = section.querySelector('table.review');
  const body = table.tBodies[0];
  const said = section.querySelector('#review-said');
  const filter = section.querySelector('#review-filter');
  const letters = {a: 'accept', c: 'check', r: 'redo', x: 'exclude', u: ''};
  const nameOf = (row) => `${row.dataset.participant} ${row.dataset.session}`.trim();
  const rows = () => [...body.rows];
  const shown = () => rows().filter((row) => !row.hidden);
  const noteOf = (row) => row.querySelector('.note input').value.trim();
  const { now } = mslessegMarks;
  const kept = mslessegMarks.all();
  const keep = (row) => {
    const stored = mslessegMarks.keep(nameOf(row), {
      mark: row.dataset.mark, marked: row.dataset.marked, note: noteOf(row),
    });
    if (!stored) said.textContent = 'This browser does not store marks: save them before you leave.';
  };

  const count = () => {
    const all = rows();
    const done = all.filter((row) => row.dataset.mark && row.dataset.mark !== 'redone').length;
    section.querySelector('#review-count').textContent = `${done} of ${all.length} marked`;
  };
  const passes = (row) => {
    const mark = row.dataset.mark;
    if (filter.value === 'open') return !mark || mark === 'redone';
    if (filter.value === 'flagged') return 'flagged' in row.dataset;
    return filter.value === 'all' || mark === filter.value;
  };
  const search = section.querySelector('#review-search');
  const found = (row) => {
    const text = `${nameOf(row)} ${row.querySelector('.flags').textContent} ${noteOf(row)}`.toLowerCase();
    return search.value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
  };
  const refresh = (row) => {
    row.querySelector('.said').textContent = row.dataset.mark;
    for (const button of row.querySelectorAll('.marks button')) {
      button.setAttribute('aria-pressed', String(button.value === row.dataset.mark));
    }
  };
  const mark = (row, value) => {
    row.dataset.mark = value;
    row.dataset.marked = now();
    refresh(row);
    keep(row);
    count();
    said.textContent = `${nameOf(row)}: ${value || 'mark cleared'}`;
  };

  let current = null;
  const choose = (row, focus = true) => {
    if (!row) return;
    if (current) current.tabIndex = -1;
    current = row;
    row.tabIndex = 0;
    if (focus) {
      row.focus({preventScroll: true});
      row.scrollIntoView({block: 'nearest'});
    }
  };
  const step = (row, by) => {
    const list = shown();
    choose(list[list.indexOf(row) + by]);
  };
  const line = (row, by) => {
    if (!table.classList.contains('gallery')) return step(row, by);
    const list = shown();
    const here = row.getBoundingClientRect();
    const next = (by > 0 ? list : list.reverse()).find((other) => {
      const box = other.getBoundingClientRect();
      return by * (box.top - here.top) > 4 && Math.abs(box.left - here.left) < 4;
    });
    choose(next);
  };

  for (const row of rows()) {
    row.tabIndex = -1;
    row.setAttribute('aria-keyshortcuts', 'A C R X U N ArrowDown ArrowUp');
    const marks = document.createElement('div');
    marks.className = 'marks';
    marks.setAttribute('role', 'group');
    marks.setAttribute('aria-label', `Mark of ${nameOf(row)}`);
    for (const value of ['accept', 'check', 'redo', 'exclude']) {
      const button = document.createElement('button');
      button.type = 'button';
      button.value = button.textContent = value;
      button.tabIndex = -1;
      button.addEventListener('click', () => {
        choose(row, false);
        const chosen = row.dataset.mark === value ? '' : value;
        mark(row, chosen);
        if (chosen) step(row, 1);
      });
      marks.append(button);
    }
    row.querySelector('.mark').append(marks);
    const note = document.createElement('input');
    note.type = 'text';
    note.tabIndex = -1;
    note.maxLength = 300;
    note.placeholder = 'note';
    note.setAttribute('aria-label', `Note on ${nameOf(row)}`);
    note.value = row.querySelector('.note').textContent.trim();
    note.addEventListener('change', () => {
      row.dataset.marked = now();
      keep(row);
    });
    row.querySelector('.note').replaceChildren(note);
    const known = kept[nameOf(row)];
    if (known && known.marked > row.dataset.marked) {
      row.dataset.mark = known.mark;
      row.dataset.marked = known.marked;
      note.value = known.note;
    }
    refresh(row);
    row.addEventListener('focus', () => choose(row, false));
  }
  table.classList.add('live');

  section.addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    const row = event.target.closest('table.review tbody tr');
    if (!row) return;
    if (event.target.tagName === 'INPUT') {
      if (event.key === 'Escape' || event.key === 'Enter') {
        event.target.blur();
        choose(row);
      }
      return;
    }
    const key = event.key.toLowerCase();
    const moves = {
      arrowdown: () => line(row, 1), arrowup: () => line(row, -1),
      arrowright: () => step(row, 1), arrowleft: () => step(row, -1),
      j: () => step(row, 1), k: () => step(row, -1),
      home: () => choose(shown()[0]), end: () => choose(shown().at(-1)),
      n: () => row.querySelector('.note input').focus(),
    };
    if (key in letters) {
      mark(row, letters[key]);
      if (letters[key]) step(row, 1);
    } else if (key in moves) {
      moves[key]();
    } else {
      return;
    }
    event.preventDefault();
  });

  const narrow = () => {
    for (const row of rows()) row.hidden = !passes(row) || !found(row);
    choose(shown()[0], false);
    said.textContent = `${shown().length} shown`;
  };
  filter.addEventListener('change', narrow);
  search.addEventListener('input', narrow);
  section.querySelector('#review-gallery').addEventListener('change', (event) => {
    table.classList.toggle('gallery', event.target.checked);
  });

  const content = () => {
    const lines = [];
    const sorted = rows().sort((one, two) => (nameOf(one) < nameOf(two) ? -1 : 1));
    for (const row of sorted) {
      const {participant, session, mark: value, marked} = row.dataset;
      if (value || noteOf(row)) lines.push([participant, session, value, marked, noteOf(row)]);
    }
    return mslessegMarks.table(lines);
  };
  section.querySelector('#review-save').addEventListener('click', () => {
    mslessegMarks.save(content(), 'group_review.tsv');
    said.textContent = 'Saved as group_review.tsv.';
  });

  // Reports follow the order of this table; search narrows it by name, flag and note.
  const reports = rows().map((row) => row.querySelector('th a')).filter(Boolean)
    .map((link) => decodeURIComponent(link.getAttribute('href').split(/[?#]/)[0]));
  mslessegMarks.keepOrder([...new Set(reports)]);

  choose(body.rows[0], false);
  count();
})();

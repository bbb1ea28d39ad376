'use strict';
// Marks of exams, kept in the browser and shared by all reports of one output folder.
const mslessegMarks = (() => {
  const folder = location.pathname.replace(/[^/]*$/, '');
  const read = (place) => {
    try {
      return JSON.parse(localStorage.getItem(place)) || null;
    } catch {
      return null;
    }
  };
  const write = (place, value) => {
    try {
      localStorage.setItem(place, JSON.stringify(value));
      return true;
    } catch {
      return false;
    }
  };
  const place = `mslesseg review ${folder}`;
  const clean = (text) => text.replace(/\s+/g, ' ').trim() || 'n/a';
  return {
    now: () => new Date().toISOString().replace(/\.\d+Z$/, 'Z'),
    all: () => read(place) || {},
    keep: (name, mark) => write(place, { ...(read(place) || {}), [name]: mark }),
    order: () => read(`mslesseg order ${folder}`) || [],
    keepOrder: (names) => write(`mslesseg order ${folder}`, names),
    table: (rows) => [['participant_id', 'session_id', 'mark', 'marked', 'note'], ...rows]
      .map((cells) => cells.map(clean).join('\t')).join('\n') + '\n',
    save: (text, name) => {
      const link = document.createElement('a');
      link.href = URL.createObjectURL(new Blob([text], { type: 'text/tab-separated-values' }));
      link.download = name;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    },
  };
})();

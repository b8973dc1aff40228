// The search of a gallery page: which rows are shown, in which order, and whose card. The cards were escaped in Python.
(() => {
  const at = id => document.getElementById(id)
  const entries = JSON.parse(at('gl-data').textContent)
  const list = at('gl-list')
  const rows = [...list.children]
  let chosen = 0

  const choose = i => {
    rows[chosen].setAttribute('aria-selected', 'false')
    chosen = i
    rows[i].setAttribute('aria-selected', 'true')
    list.setAttribute('aria-activedescendant', rows[i].id)
    rows[i].scrollIntoView({ block: 'nearest' })
    at('gl-card').innerHTML = entries[i].card
  }
  const shown = () => [...list.children].filter(row => !row.hidden)

  const find = () => {
    const words = at('gl-q').value.toLowerCase().split(/\s+/).filter(Boolean)
    const label = at('gl-l').value
    const key = at('gl-s').value
    const fits = entry => (!label || entry.label === label) && words.every(word => entry.words.includes(word))
    rows.forEach((row, i) => { row.hidden = !fits(entries[i]) })
    const order = rows.map((_, i) => i)
    if (key) order.sort((a, b) => (key === 'latent' ? 1 : -1) * (entries[a][key] - entries[b][key]) || a - b)
    list.append(...order.map(i => rows[i]))
    const found = shown()
    at('gl-n').textContent = `${found.length} of ${rows.length} shown`
    at('gl-none').hidden = found.length > 0
    at('gl-card').hidden = found.length === 0
    if (found.length && rows[chosen].hidden) choose(+found[0].dataset.i)
  }

  for (const id of ['gl-q', 'gl-l', 'gl-s']) at(id).addEventListener('input', find)
  list.addEventListener('click', event => {
    const row = event.target.closest('.gl-row')
    if (row) choose(+row.dataset.i)
  })
  list.addEventListener('keydown', event => {
    const found = shown()
    const now = found.indexOf(rows[chosen])
    const to = { ArrowDown: now + 1, ArrowUp: now - 1, Home: 0, End: found.length - 1 }[event.key]
    if (to === undefined || !found.length) return
    event.preventDefault()
    choose(+found[Math.max(0, Math.min(to, found.length - 1))].dataset.i)
  })
})()
